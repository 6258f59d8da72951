"""What cameras, trainer and coordinator say to each other over MQTT."""
