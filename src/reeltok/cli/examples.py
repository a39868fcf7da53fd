"""One example for each command, with which its help ends; a test parses all of them."""

EXAMPLES = {
    "encode": "reeltok encode clips/ tokens/ --size 256",
    "decode": "reeltok decode clip.reel again.mp4 --start 24 --stop 48",
    "reconstruct": "reeltok reconstruct clip.mp4 again.mp4 --frames 48",
    "demo": "reeltok demo --video clip.mp4 --out out/",
    "models": "reeltok models",
    "info": "reeltok info clip.reel",
    "download": "reeltok download vidtok_fsq_causal_488_32768",
    "convert": "reeltok convert my.ckpt mine/ --preset vidtok_kl_causal_488_4chn",
    "statistics": "reeltok statistics my_model/ clips/ --frames 17",
    "train": "reeltok train small --data clips/ --out runs/first",
    "runs": "reeltok runs runs/first",
    "generate": "reeltok generate runs/sit/model --count 8 --seed 0 --out samples/",
    "evaluate": "reeltok evaluate default clips/ --out default.json",
    "compare": "reeltok compare default --peer h264 clips/ --out report/",
    "fvd": "reeltok fvd samples/ ucf101/ --protocol ucf-128",
    "probe": "reeltok probe default clips/ --labels manifest.csv:group",
    "bair": "reeltok bair runs/prior/model bair/test/ --out standard.json",
    "view": "reeltok view --model my_model/ --port 8000",
    "data check": "reeltok data check clips/ --out lists/",
    "data bair": "reeltok data bair bair/train/ --out clips/",
}
