"""One camera: sees faces, decides who wears no mask, and says so over MQTT."""
