"""The one finder of clips: whatever a command is given to take videos from becomes `Clip`s.

`find` looks into folders, patterns and files, `lists` reads lists, `tar` shards, `bair` TFRecords;
`clip` is the record, and how it is opened.
"""
