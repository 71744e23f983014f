"""Files as published data sets have them, two films or two products long."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

UNIX = 881_250_949


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding, newline="")
    return path


def ml_100k(folder: Path) -> Path:
    flags = "|".join("1" if number in {5, 14} else "0" for number in range(19))
    write(
        folder / "u.item",
        f"1|Misérables, Les (1995)|01-Jan-1995||http://x|{flags}",
        f"2|unknown||||1{'|0' * 18}",
        encoding="latin-1",
    )
    write(folder / "u.user", "7|24|M|technician|85711", "8|53|F|other|T8H1N")
    write(folder / "u.data", f"7\t1\t3\t{UNIX}", f"8\t1\t5\t{UNIX + 1}", f"7\t2\t1\t{UNIX + 2}")
    return folder


def ml_dat(folder: Path) -> Path:
    write(
        folder / "movies.dat", "1::Matrix, The (1999)::Action|Sci-Fi", "2::Amélie (2001)::Comedy",
        encoding="latin-1",
    )  # fmt: skip
    write(folder / "users.dat", "7::F::1::10::48067", "8::M::56::99::70072")
    write(folder / "ratings.dat", f"7::1::5::{UNIX}", f"8::2::3.5::{UNIX + 9}")
    return folder


def ml_ranked(folder: Path) -> Path:
    ml_dat(folder)
    (folder / "ratings.dat").unlink()
    write(folder / "ratings_rank.dat", "7::1::5::1", "7::2::4::0", "8::2::3::0")
    write(
        folder / "last_timestamps.csv", "user_id,last_timestamp,second_last_timestamp",
        f"7,{UNIX},", f"8,{UNIX + 5},",
    )  # fmt: skip
    return folder


def ml_csv(folder: Path) -> Path:
    write(
        folder / "movies.csv", "movieId,title,genres",
        '11,"American President, The (1995)",Comedy|Drama|Romance',
        '12,"Say ""Hi"", Amélie (2001)",(no genres listed)',
    )  # fmt: skip
    write(
        folder / "ratings.csv",
        "userId,movieId,rating,timestamp",
        f"7,11,4.0,{UNIX}",
        f"7,12,0.5,{UNIX + 3}",
    )
    return folder


def ml_typed(folder: Path, stem: str = "tiny") -> Path:
    write(
        folder / f"{stem}.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "1\tUsual Suspects, The\t1995\tCrime Thriller",
        "2\tunkonwn\tV\tunknown",
    )
    write(
        folder / f"{stem}.user",
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        "7\t24\tM\twriter\t02460",
    )
    write(
        folder / f"{stem}.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        f"7\t1\t3\t{UNIX}",
    )
    return folder


def amazon(folder: Path, *, packed: bool = False) -> Path:
    rows = [
        {"id": 1, "asin": "B1", "title": "Soap", "brand": "Dove", "categories": [["Bath", "Soap"]]},
        {"id": 2, "asin": "B2", "title": "Brush", "price": "$1,200.50", "category_text": "Hair"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    folder.mkdir(exist_ok=True)
    if packed:
        (folder / "items.jsonl.gz").write_bytes(gzip.compress(lines))
    else:
        (folder / "items.jsonl").write_bytes(lines)
    write(folder / "sequences.txt", "7 1 2 1", "8 2")
    return folder
