"""Many visitors, one model: a session each, live sources, limits; and the server API over them."""
