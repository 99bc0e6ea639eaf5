"""What every room uses: entities of keys, sizes and times as text, files written whole."""
