"""The way in over HTTP: which raw topics an event goes to, and whether route would refuse it. Pure."""
