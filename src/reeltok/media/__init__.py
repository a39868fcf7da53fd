"""Files of pictures, read and written through FFmpeg (PyAV); `reeltok.video` stands on top.

In: `timing` (rates and time stamps), `colour` (tags, and the way between FFmpeg's frames and RGB),
`survey` (what the packets say ahead), `images`, and `source`, which opens whatever it is given.
Out: `sound` (copied, never decoded), `movie` (one video stream), `sink` (where it is put, whole).
"""
