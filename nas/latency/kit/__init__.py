"""Tables for devices that are elsewhere: a kit is made on one machine, measured on another, and read back here.

What runs on the other machine, `_manifest` and `_measuring` with what they import, needs neither torch nor diffusers.
"""

from nas.latency.kit._exporting import Converter, export_kit
from nas.latency.kit._importing import import_kit
from nas.latency.kit._manifest import Manifest, Package
from nas.latency.kit._measuring import measure_kit, runtime_of

__all__ = ["Converter", "Manifest", "Package", "export_kit", "import_kit", "measure_kit", "runtime_of"]
