"""A process's share of what several on one port count together, in the folder ``PROMETHEUS_MULTIPROC_DIR``.

prometheus-client has files of each process there, named after its process id. A process that is started again and again
would leave ever more of them behind; with a name that stays it counts on where its predecessor was.
"""

from prometheus_client import values

from headrace_shared.settings import MetricsSettings


def take_share(settings: MetricsSettings | None = None) -> None:
    """To be called before the first instrument is made; does nothing unless this process has such a name."""
    settings = settings or MetricsSettings()
    folder, name = settings.multiproc_dir, settings.process
    if folder is None or name is None:
        return
    for level in folder.glob(f"gauge_live*_{name}.db"):
        level.unlink(missing_ok=True)  # what the predecessor had open was closed with it
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: name)  # type: ignore[no-untyped-call]
