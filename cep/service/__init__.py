"""Client of the web service's REST interface, hosted or hub: login and registration."""
