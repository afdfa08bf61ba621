"""Write the 24 clips of orange objects that run.sh fine-tunes on: orange-00.mp4, orange-00.txt, ...

python recipes/finetune/make_clips.py FOLDER
"""

import sys
from pathlib import Path

from mindsora.data.toy import orange
from mindsora.data.toy.procedural import FPS
from mindsora.media import export_to_video

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(orange.CLIPS):
        video, captions = orange.clip(number)
        export_to_video(video, folder / f"orange-{number:02d}.mp4", fps=FPS)
        (folder / f"orange-{number:02d}.txt").write_text(f"{captions}\n", encoding="utf-8")
