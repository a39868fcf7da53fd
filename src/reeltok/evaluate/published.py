"""Numbers that others printed, to stand beside ours and never among them.

Their protocols are theirs: frames, filters and networks differ in ways that the papers do not
always say. Every row has its source; a value that a table leaves open is None.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Values = Sequence[float | int | None]


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One line of a published table."""

    table: str
    model: str
    values: dict[str, float]  # the columns that are given
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A published table: where it is from, under which protocol, and its lines."""

    name: str
    title: str
    source: str
    protocol: str | None  # the name of ours that follows the same definition, if any
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


def _table(
    name: str,
    title: str,
    source: str,
    protocol: str | None,
    columns: str,
    lines: Iterable[tuple[str, Values] | tuple[str, Values, str]],
) -> PublishedTable:
    keys = tuple(columns.split())
    rows = []
    for model, values, *note in lines:
        given = {k: float(v) for k, v in zip(keys, values, strict=True) if v is not None}
        rows.append(PublishedRow(table=name, model=model, values=given, note="".join(note)))
    return PublishedTable(
        name=name,
        title=title,
        source=source,
        protocol=protocol,
        columns=keys,
        rows=tuple(rows),
    )


_QUALITY = "psnr ssim lpips fvd"
_VIDTOK = "VidTok (arXiv 2412.13061)"
_COORDTOK = "CoordTok (arXiv 2411.14762)"
_MAGVIT = "MAGVIT (arXiv 2212.05199)"

_TABLES = (
    _table(
        "vidtok-1-mcl-jcv",
        "Reconstruction, MCL-JCV, 4x8x8, 17x256x256",
        f"{_VIDTOK}, table 1",
        "vidtok",
        _QUALITY,
        (
            ("MAGVIT-v2* LFQ-262144", (26.18, None, 0.104, None), "at 17x360x640"),
            ("OmniTokenizer VQ-8192", (26.93, 0.841, 0.165, 232.7)),
            ("Cosmos-DV FSQ-64000", (28.07, 0.743, 0.212, 227.7)),
            ("VidTok FSQ-32768", (29.16, 0.854, 0.117, 196.9)),
            ("VidTok FSQ-262144", (29.82, 0.867, 0.106, 160.1)),
            ("CV-VAE KL-4", (28.56, 0.823, 0.163, 334.2)),
            ("Open-Sora-1.2 KL-4", (29.44, 0.766, 0.164, 350.7)),
            ("Open-Sora-Plan-1.2 KL-4", (29.07, 0.839, 0.131, 201.7)),
            ("VidTok KL-4", (29.64, 0.852, 0.114, 194.2)),
            ("CogVideoX KL-16", (33.76, 0.930, 0.076, 93.2)),
            ("Cosmos-CV AE-16", (31.27, 0.817, 0.149, 153.7)),
            ("VidTok KL-16", (35.04, 0.942, 0.047, 78.9)),
        ),
    ),
    _table(
        "vidtok-1-webvid",
        "Reconstruction, WebVid-Val, 4x8x8, 17x256x256",
        f"{_VIDTOK}, table 1",
        "vidtok",
        _QUALITY,
        (
            ("OmniTokenizer VQ-8192", (26.26, 0.883, 0.112, 48.46)),
            ("Cosmos-DV FSQ-64000", (29.39, 0.741, 0.170, 57.97)),
            ("VidTok FSQ-32768", (31.04, 0.883, 0.089, 45.34)),
            ("VidTok FSQ-262144", (31.76, 0.896, 0.080, 38.17)),
            ("CV-VAE KL-4", (30.79, 0.863, 0.116, 70.39)),
            ("Open-Sora-1.2 KL-4", (31.02, 0.764, 0.137, 112.34)),
            ("Open-Sora-Plan-1.2 KL-4", (30.85, 0.869, 0.101, 44.76)),
            ("VidTok KL-4", (31.53, 0.878, 0.087, 36.88)),
            ("CogVideoX KL-16", (36.22, 0.952, 0.049, 15.30)),
            ("Cosmos-CV AE-16", (33.04, 0.818, 0.107, 23.85)),
            ("VidTok KL-16", (37.53, 0.961, 0.032, 9.12)),
        ),
    ),
    _table(
        "vidtok-2",
        "Architecture, KL-4 at 4x8x8 (million parameters; tera-MACs, printed as FLOPs)",
        f"{_VIDTOK}, table 2",
        "vidtok",
        f"parameters_m macs_t {_QUALITY}",
        (
            ("variant 1: fully 3-D", (245, 16.98, 29.39, 0.847, 0.117, 176.9)),
            ("variant 2: no AlphaBlender", (142, 7.17, 29.36, 0.846, 0.119, 185.7)),
            ("variant 3: no 3-D convolutions", (126, 10.18, 29.26, 0.846, 0.120, 200.6)),
            ("VidTok", (157, 10.35, 29.64, 0.852, 0.114, 194.2)),
        ),
    ),
    _table(
        "vidtok-3",
        "Discrete quantizers, regularization loss off and on",
        f"{_VIDTOK}, table 3",
        "vidtok",
        f"{_QUALITY} utilization",
        (
            ("VQ-262144, off", (None, None, None, None, None), "diverged"),
            ("VQ-262144, on", (23.22, 0.657, 0.336, 960.5, 0.002)),
            ("LFQ-262144, off", (23.91, 0.688, 0.251, 619.8, 0.042)),
            ("LFQ-262144, on", (28.04, 0.833, 0.133, 208.1, 0.999)),
            ("FSQ-262144, off", (29.75, 0.866, 0.109, 167.5, 0.998)),
            ("FSQ-262144, on", (29.82, 0.867, 0.106, 160.1, 0.998)),
            ("FSQ-32768, on", (29.16, 0.854, 0.117, 196.9, 1.0)),
            ("FSQ-4096, on", (28.36, 0.832, 0.133, 218.1, 1.0)),
        ),
    ),
    _table(
        "vidtok-4",
        "Training, KL-4: frame rate, stage 1, stage 2, encoder fixed",
        f"{_VIDTOK}, table 4",
        "vidtok",
        f"{_QUALITY} a100_hours",
        (
            ("3 fps, 256", (29.19, 0.843, 0.127, 174.9, 3072)),
            ("3 fps, 128", (29.02, 0.838, 0.130, 221.7, 960)),
            ("3 fps, 128 then 256, encoder trained", (29.15, 0.842, 0.127, 203.2, 1728)),
            ("3 fps, 128 then 256, encoder fixed", (29.21, 0.843, 0.125, 189.8, 1536)),
            ("8 fps, 128 then 256, encoder fixed", (29.02, 0.839, 0.126, 219.2, 1536)),
        ),
    ),
    _table(
        "vidtok-5",
        "Compression, channels and causality",
        f"{_VIDTOK}, table 5",
        "vidtok",
        _QUALITY,
        (
            ("KL-4 4x16x16", (25.05, 0.711, 0.228, 549.1)),
            ("KL-4 4x8x8 non-causal", (30.60, 0.876, 0.098, 157.9)),
            ("KL-4 4x16x16 non-causal", (26.06, 0.751, 0.190, 423.2)),
            ("KL-8 4x8x8", (31.83, 0.897, 0.083, 109.3)),
            ("KL-8 2x8x8", (33.86, 0.928, 0.057, 80.7)),
            ("KL-4 4x4x4", (34.78, 0.941, 0.051, 87.2)),
            ("FSQ-262144 4x16x16", (25.38, 0.738, 0.206, 430.1)),
            ("FSQ-262144 4x8x8 non-causal", (30.78, 0.889, 0.091, 132.1)),
            ("FSQ-262144 4x16x16 non-causal", (26.37, 0.772, 0.171, 357.0)),
        ),
    ),
    _table(
        "tokenbench",
        "TokenBench leaderboard",
        "NVIDIA TokenBench",
        "tokenbench",
        "psnr ssim fvd",
        (
            ("Cosmos CV4x8x8", (37.27, 0.928, 6.8)),
            ("Cosmos CV8x8x8", (36.86, 0.917, 11.6)),
            ("Cosmos CV8x16x16", (35.16, 0.875, 43.1)),
            ("Cosmos DV4x8x8", (35.14, 0.887, 19.7)),
            ("Cosmos DV8x8x8", (34.75, 0.872, 43.9)),
            ("Cosmos DV8x16x16", (33.72, 0.828, 113.5)),
            ("CogVideoX", (33.15, 0.908, 7.0)),
            ("OmniTokenizer VAE", (29.71, 0.830, 35.9)),
            ("OmniTokenizer VQ", (30.15, 0.827, 53.6)),
        ),
    ),
    _table(
        "coordtok-1",
        "Reconstruction, UCF-101, 128x128x128",
        f"{_COORDTOK}, table 1",
        "coordtok",
        "tokens trained_frames psnr lpips ssim fvd",
        (
            ("MaskGIT-AE (VQ)", (8192, 1, 21.4, 0.139, 0.667, 447.1)),
            ("TATS-AE (VQ)", (8192, 16, 23.2, 0.213, 0.792, 249.4)),
            ("MAGVIT-AE-L (VQ)", (8192, 16, 21.8, 0.113, 0.690, None)),
            ("LARP (VQ), 8192", (8192, 16, 24.3, 0.142, 0.806, 201.3)),
            ("OmniTokenizer-DV, 8192", (8192, 17, 26.1, 0.113, 0.871, 97.9)),
            ("PVDM-AE, 6144", (6144, 16, 26.5, 0.120, 0.859, 66.5)),
            ("OmniTokenizer-CV, 8192", (8192, 17, 28.3, 0.081, 0.913, 49.5)),
            (
                "CosmosTokenizer-CV, 8192",
                (8192, 17, 28.5, 0.119, 0.905, 87.8),
                "not trained on UCF-101",
            ),
            ("LARP, 1024", (1024, 16, 22.0, 0.181, 0.766, 443.5)),
            ("OmniTokenizer-DV, 1024", (1024, 17, 22.2, 0.201, 0.703, 509.0)),
            ("PVDM-AE, 1152", (1152, 16, 19.1, 0.333, 0.563, 1270.1)),
            ("OmniTokenizer-CV, 1024", (1024, 17, 23.2, 0.175, 0.744, 396.7)),
            ("CosmosTokenizer-CV, 1024", (1024, 17, 24.0, 0.220, 0.774, 519.6)),
            ("CoordTok-L", (1280, 128, 28.6, 0.066, 0.892, 102.9)),
        ),
    ),
    _table(
        "coordtok-2",
        "Unconditional generation, UCF-101, 128 frames",
        f"{_COORDTOK}, table 2",
        "ucf-128",
        "fvd",
        (
            ("MoCoGAN", (3679.0,)),
            ("MoCoGAN + StyleGAN2", (2311.3,)),
            ("MoCoGAN-HD", (2606.5,)),
            ("DIGAN", (2293.7,)),
            ("StyleGAN-V", (1773.4,)),
            ("PVDM-L", (505.0,)),
            ("HVDM", (549.7,)),
            ("Latte-L/2", (1901.8,)),
            ("CoordTok-SiT-L/2", (369.3,)),
        ),
    ),
    _table(
        "coordtok-3",
        "One sample of 128 frames of 128x128, RTX 4090",
        f"{_COORDTOK}, table 3",
        "ucf-128",
        "seconds gb",
        (
            ("TATS", (180.7, 9.8)),
            ("LARP", (114.3, 3.1)),
            ("PVDM-L", (116.9, 4.0)),
            ("HVDM", (52.1, 3.9)),
            ("Latte-L/2", (21.4, 3.1)),
            ("CoordTok-SiT-L/2", (9.8, 4.5)),
        ),
    ),
    _table(
        "coordtok-4",
        "What a training step asks for, UCF-101, 128 frames, 210K steps",
        f"{_COORDTOK}, table 4",
        "coordtok",
        "fvd",
        (
            ("random patches, 3.125 %", (238.0,)),
            ("random patches, 1.563 %", (401.0,)),
            ("random frames, 3.125 %", (479.0,)),
        ),
    ),
    _table(
        "coordtok-8",
        "Number of cells, UCF-101, 128 frames",
        f"{_COORDTOK}, table 8",
        "coordtok",
        _QUALITY,
        (
            ("1280 cells", (28.6, 0.892, 0.066, 102.9)),
            ("3072 cells", (28.7, 0.894, 0.065, 100.5)),
        ),
    ),
    _table(
        "coordtok-9",
        "Losses, UCF-101, 128 frames",
        f"{_COORDTOK}, table 9",
        "coordtok",
        _QUALITY,
        (
            ("l2 alone", (30.3, 0.905, 0.141, 186.3), "its text says 188.3"),
            ("l2, then LPIPS", (28.6, 0.892, 0.066, 102.9)),
        ),
    ),
    _table(
        "magvit-bair",
        "Frame prediction, BAIR, 64x64, one frame given",
        f"{_MAGVIT}, BAIR",
        "bair",
        "fvd fvd_debiased psnr ssim lpips",
        (
            ("MAGVIT-B", (76, 48, None, None, None)),
            ("MAGVIT-L", (62, 31, 19.3, 0.787, 0.123)),
        ),
    ),
)
PUBLISHED: dict[str, PublishedTable] = {table.name: table for table in _TABLES}
