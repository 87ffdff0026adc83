"""DFlash here against its peers: the engines, their interleaved runs, the table."""
