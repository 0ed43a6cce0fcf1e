from libs.common.lifecycle import run
from services.scheduler.app import service

run(service)
