"""What ``--record`` says of itself, for the commands that have it."""

RECORD_HELP = (
    "keep finished answers there as tokens, for `dflash-local learn`; only you can read them "
    "(default: nothing is kept)"
)
