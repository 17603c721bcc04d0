"""Files as an attacker or a bad disk would leave them, generated from the whole ones."""

import copy
import json

NASTY = [
    None,
    True,
    -1,
    0,
    10**12,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../etc/passwd",
    "0-999999999999",
    "\x00",
    "__class__",
    ":_modules",
    [],
    {},
    [[]],
    {"": 0},
    [0] * 100,
]


def places(document, path=()):
    """Every place in a JSON document."""
    yield path
    inside = document.items() if isinstance(document, dict) else ()
    inside = enumerate(document) if isinstance(document, list) else inside
    for key, value in inside:
        yield from places(value, (*path, key))


def mutated(document, random):
    """A JSON document with one to three places replaced, removed, renamed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, 3)):
        path = random.choice([p for p in places(document) if p] or [()])
        if not path:
            return random.choice(NASTY)
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        kind = random.randrange(4)
        if kind == 0 and isinstance(parent, dict):
            parent[random.choice(["x", "", ":_modules", "0:stride"])] = parent.pop(path[-1])
        elif kind == 1:
            del parent[path[-1]]
        elif kind == 2 and isinstance(parent[path[-1]], int) and not isinstance(parent[path[-1]], bool):
            parent[path[-1]] += random.choice([-1, 1, 7])
        else:
            parent[path[-1]] = copy.deepcopy(random.choice(NASTY))
    return document


def corrupted(content, random):
    """Bytes with bits flipped, a part cut off, removed, doubled, zeroed or replaced by noise."""
    content = bytearray(content)
    start = random.randrange(max(len(content), 1))
    stop = min(len(content), start + random.choice([1, 8, 200]))
    kind = random.randrange(6)
    if kind == 0:
        for _ in range(random.randint(1, 8)):
            if content:
                content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif kind == 1:
        del content[start:]
    elif kind == 2:
        del content[start:stop]
    elif kind == 3:
        content[start:start] = content[start:stop]
    elif kind == 4:
        content[start:stop] = bytes(stop - start)
    else:
        content[start:stop] = random.randbytes(stop - start)
    return bytes(content)


def dumped(document):
    """JSON, also of what JSON has no word for."""
    return json.dumps(document).encode()
