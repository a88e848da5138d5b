"""One builder per kind of instruction; minirlhf.world.requests deals them out."""
