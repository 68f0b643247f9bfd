"""The idea: how a moving list is read without loss, and when a removal may be believed."""
