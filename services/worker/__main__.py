from libs.common.lifecycle import run
from services.worker.app import service

run(service)
