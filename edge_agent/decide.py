"""Readings over time -> incidents. Pure: one immutable state, one function that steps it.

Faces are followed from frame to frame (follow.py). A sure reading of a face is a vote; K bare votes
of the last N open an incident, K masked ones of the last N close it. One person is one alert, however long
they stand there, and each incident ends: a mask goes on, the face leaves, or the agent stops.
"""

import math
from dataclasses import dataclass, replace

from edge_agent.follow import Place, match
from edge_agent.scene import Box, Closed, Ending, Incident, Label, Opened, Reading


@dataclass(frozen=True)
class Rules:
    """When a face is worth an alert."""

    votes_needed: int = 5
    """K: bare votes that open an incident, and masked votes that close it."""
    votes_kept: int = 7
    """N: how many of a face's last votes count; K is more than half of it, so no face is both."""
    least_p: float = 0.9
    """The mean p(no mask) of the bare votes that open an incident: what is no face at all is often read as a bare one, but seldom so surely."""
    age_s: float = 1.0
    """How long a face must have been followed before it can open an incident."""
    seen_share: float = 0.5
    """In so many of the late frames (some 60, or since it was first seen) a face must have been seen: a hand is taken for one now and then."""
    smallest_px: float = 24
    """A face must have been at least this large, on its longer side, in the frame that confirms."""
    lost_s: float = 2.0
    """A face that was not seen for this long has left."""
    cooldown_s: float = 5.0
    """A face's next incident opens at the earliest this long after its last one ended."""


VOTE_S = 0.045
"""Between two votes of a face passes so much time at least, or at 60 frames per second a hand before a mouth for a tenth of one would be a mask."""
FADE = 1 - 1 / 60
"""What a frame counts less than the next one in the share of frames that show a face: an hour ago says nothing about now."""


@dataclass(frozen=True)
class Vote:
    """One sure reading."""

    is_bare: bool
    p_no_mask: float


@dataclass(frozen=True)
class OpenIncident:
    """What is remembered of an incident until it ends."""

    seq: int
    started_s: float
    worst_p_no_mask: float
    frames: int


@dataclass(frozen=True)
class Track:
    """One face, followed through time."""

    number: int
    place: Place
    first_s: float
    frames: float = 0
    """Since the face was first seen, that one included; what is long ago counts little (`FADE`)."""
    seen: float = 0
    """Those of them that showed the face, counted alike."""
    votes: tuple[Vote, ...] = ()
    voted_s: float = -math.inf
    """When the last of them was cast."""
    bare_since_s: float = 0.0
    """When the bare votes began that are among `votes`, since the face last looked masked; says nothing where there is none."""
    incident: OpenIncident | None = None
    quiet_until_s: float = -math.inf

    @property
    def box(self) -> Box:
        """Where it was seen last."""
        return self.place.box

    @property
    def last_s(self) -> float:
        """When it was seen last."""
        return self.place.seen_s


@dataclass(frozen=True)
class State:
    """All that is remembered between two frames."""

    tracks: tuple[Track, ...] = ()
    next_track: int = 1
    next_seq: int = 1

    @property
    def open_incidents(self) -> int:
        return sum(track.incident is not None for track in self.tracks)


def step(state: State, readings: tuple[Reading, ...], now_s: float, rules: Rules) -> tuple[State, tuple[Incident, ...]]:
    """The state after the readings of one frame, and the incidents that it opened and closed.

    `now_s` is the frame's time and never goes back. No readings is a frame without faces.
    """
    incidents: list[Incident] = []
    matches = match([track.place for track in state.tracks], [reading.face.box for reading in readings], now_s)
    tracks: list[Track] = []
    next_track, next_seq = state.next_track, state.next_seq
    for index, track in enumerate(state.tracks):
        if index in matches:
            tracks.append(_see(track, readings[matches[index]], now_s, rules))
        elif not _is_lost(track, now_s, rules):
            tracks.append(replace(track, frames=track.frames * FADE + 1, seen=track.seen * FADE))
        elif track.incident is not None:
            incidents.append(_closed(track, track.incident, now_s, Ending.LEFT))
    for index in sorted(set(range(len(readings))) - set(matches.values())):
        tracks.append(_see(Track(next_track, Place(readings[index].face.box, now_s), now_s), readings[index], now_s, rules))
        next_track += 1
    for index, track in enumerate(tracks):
        if track.last_s != now_s:
            continue
        if track.incident is not None and _count(track, is_bare=False) >= rules.votes_needed:
            incidents.append(_closed(track, track.incident, now_s, Ending.MASK_ON))
            masked = tuple(vote for vote in track.votes if not vote.is_bare)  # the bare ones were that incident's, and are no part of the next
            tracks[index] = replace(track, votes=masked, incident=None, quiet_until_s=now_s + rules.cooldown_s)
        elif track.incident is None and _is_confirmed(track, now_s, rules):
            opened = _opened(track, next_seq, now_s, len(readings))
            incidents.append(opened)
            tracks[index] = replace(track, incident=OpenIncident(next_seq, opened.started_s, opened.p_no_mask, frames=0))
            next_seq += 1
    return State(tuple(tracks), next_track, next_seq), tuple(incidents)


def wait(state: State, now_s: float, rules: Rules) -> tuple[State, tuple[Incident, ...]]:
    """The same while no frame comes: a frame that was not taken counts against no face, but who was last seen long ago has left."""
    lost = [track for track in state.tracks if _is_lost(track, now_s, rules)]
    closed = tuple(_closed(track, track.incident, now_s, Ending.LEFT) for track in lost if track.incident is not None)
    return replace(state, tracks=tuple(track for track in state.tracks if track not in lost)), closed


def close_all(state: State, now_s: float) -> tuple[State, tuple[Incident, ...]]:
    """Ends every open incident because the agent stops; nothing is followed any more."""
    closed = tuple(_closed(track, track.incident, now_s, Ending.STOPPED) for track in state.tracks if track.incident is not None)
    return State((), state.next_track, state.next_seq), closed


def _see(track: Track, reading: Reading, now_s: float, rules: Rules) -> Track:
    """The track after one more reading of its face."""
    votes, voted_s, incident, bare_since_s = track.votes, track.voted_s, track.incident, track.bare_since_s
    if reading.label is not Label.UNSURE and now_s - voted_s >= VOTE_S:
        is_bare = reading.label is Label.WITHOUT_MASK
        looked_masked = not votes or (not votes[-1].is_bare and _count(track, is_bare=True) <= 1)  # one was a misreading
        if is_bare and looked_masked:
            bare_since_s = now_s
        votes, voted_s = (*votes, Vote(is_bare, reading.p_no_mask))[-rules.votes_kept :], now_s
    if incident is not None:
        incident = replace(incident, worst_p_no_mask=max(incident.worst_p_no_mask, reading.p_no_mask), frames=incident.frames + 1)
    return replace(
        track,
        place=track.place.next(reading.face.box, now_s),
        frames=track.frames * FADE + 1,
        seen=track.seen * FADE + 1,
        votes=votes,
        voted_s=voted_s,
        bare_since_s=bare_since_s,
        incident=incident,
    )


def _is_lost(track: Track, now_s: float, rules: Rules) -> bool:
    return now_s - track.last_s >= rules.lost_s


def _count(track: Track, is_bare: bool) -> int:
    return sum(vote.is_bare == is_bare for vote in track.votes)


def _is_confirmed(track: Track, now_s: float, rules: Rules) -> bool:
    return (
        _count(track, is_bare=True) >= rules.votes_needed
        and track.votes[-1].is_bare
        and _mean_p(track) >= rules.least_p
        and now_s - track.first_s >= rules.age_s
        and track.seen >= rules.seen_share * track.frames
        and now_s >= track.quiet_until_s
        and track.box.size >= rules.smallest_px
    )


def _mean_p(track: Track) -> float:
    """p(no mask) over the bare votes of a track that has some."""
    bare = [vote.p_no_mask for vote in track.votes if vote.is_bare]
    return sum(bare) / len(bare)


def _opened(track: Track, seq: int, now_s: float, faces: int) -> Opened:
    return Opened(
        seq=seq,
        track=track.number,
        started_s=track.bare_since_s,
        confirmed_s=now_s,
        p_no_mask=_mean_p(track),
        bare_votes=_count(track, is_bare=True),
        votes=len(track.votes),
        faces=faces,
    )


def _closed(track: Track, incident: OpenIncident, now_s: float, ending: Ending) -> Closed:
    """An incident of a face that left ended when the face was last seen."""
    ended_s = track.last_s if ending is Ending.LEFT else now_s
    return Closed(incident.seq, track.number, incident.started_s, ended_s, incident.worst_p_no_mask, incident.frames, ending)
