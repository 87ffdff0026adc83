"""What a drafter's file holds, what is wrong with it, what two files differ in."""
