"""Rendered scenes with physically matched sound: the training data of Diorama. One module a family."""
