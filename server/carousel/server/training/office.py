"""The training side of a server: its records, datasets, jobs and processes, put together."""

from __future__ import annotations

from carousel.server.metrics import Metrics
from carousel.server.quotas import UNLIMITED, Quotas
from carousel.server.settings import Settings
from carousel.server.store import ModelStore
from carousel.server.training.bells import Bells
from carousel.server.training.checks import Checks
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.database import Database
from carousel.server.training.dataset_uploads import DatasetUploads
from carousel.server.training.datasets import Datasets
from carousel.server.training.jobs import Jobs
from carousel.server.training.leases import Leases
from carousel.server.training.process import Share
from carousel.server.training.promotion import Loader, Promotion
from carousel.server.training.supervisor import Supervisor
from carousel.server.training.workshop import Workshop


class Office:
    """Start it in an event loop; nothing is written to the disk before somebody brings data."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        store: ModelStore,
        registry: Loader,
        *,
        instance_id: str,
        quotas: Quotas = UNLIMITED,
    ) -> None:
        url = settings.database_url
        self.share = Share(settings.training_threads, settings.training_niceness)
        self.folder = DataFolder(settings.data_folder, settings.dataset_roots)
        self.database = Database(self.folder.root, url.get_secret_value() if url else None)
        self.datasets = Datasets(self.database, self.folder, share=self.share, quotas=quotas)
        self.checks = Checks(self.folder, share=self.share)
        self.uploads = DatasetUploads(self.datasets)
        self.jobs = Jobs(
            self.database,
            self.folder,
            queue=settings.training_queue,
            runs_here=settings.training_jobs_at_once > 0,
            quotas=quotas,
        )
        self.promotion = Promotion(store, registry)
        self.bells = Bells()
        self.closing = False
        shop = Workshop(
            Leases(self.database, self.folder, instance_id),
            self.folder,
            self.promotion,
            metrics.training,
            self.bells,
            share=self.share,
            grace=settings.training_grace,
        )
        self.supervisor = Supervisor(self.database, shop, at_once=settings.training_jobs_at_once)

    def start(self) -> None:
        self.supervisor.start()

    async def close(self, grace: float) -> None:
        """End what runs within `grace` seconds, so that the next server can go on with it."""
        self.closing = True
        self.bells.ring_all()
        await self.supervisor.close(grace)
        self.database.close()
