"""Reading YAML that people write by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nas.errors import NasError


def read_yaml(path: Path) -> Any:
    """The plain data of a file.

    Raises:
        NasError: it cannot be read, is no YAML, or has a key twice.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            return yaml.load(stream, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise NasError(f"this is not readable YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise NasError(f"the file cannot be read: {error.strerror}") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if str(key) in seen:
                raise NasError(f"the field {key!r} stands twice (line {key_node.start_mark.line + 1})")
            seen.add(str(key))
        return super().construct_mapping(node, deep)
