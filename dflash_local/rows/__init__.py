"""Files of prompts and conversations, in the forms that people have them in."""
