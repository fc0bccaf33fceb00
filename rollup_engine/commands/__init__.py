"""Groups of sub-commands, one a module, in the manner of `cli`: check the words, call one function, print."""
