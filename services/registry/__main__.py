from libs.common.lifecycle import run
from services.registry.app import service

run(service)
