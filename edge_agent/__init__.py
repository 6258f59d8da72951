"""One camera: sees faces, decides who wears no mask, and says so over MQTT."""

import os

# A file or stream that cannot be read is told in one line of ours. OpenCV looks at these when it is imported; whoever wants its lines sets them.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# A picture of more pixels takes more memory than a camera's machine has to spare.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))
