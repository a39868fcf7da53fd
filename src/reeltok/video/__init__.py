"""Files of pictures, read and written through FFmpeg (PyAV); `reeltok.video.record` stands on top.

In: `timing` (rates and time stamps), `tags` (of colour), `colour` (from FFmpeg's frames to RGB and
back), `packets` (with time stamps that run on), `ending` (whether a file was cut off), `survey`
(what both say ahead), `decode` (frames, and what becomes of damage), `inputs`, `formats`, `raw`
(what may be opened), `images`, `layout` (of arrays), `size`, `remarks`, and `source`, which opens
all of these.
Out: `sound` (copied, or coded anew), `encoders`, `movie` (one video stream), and `sink` (where it
is put, whole).
"""
