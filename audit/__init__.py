"""The images themselves: duplicates, leaks between splits and wrong labels, and what they do to the answers."""
