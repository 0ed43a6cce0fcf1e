from libs.common.lifecycle import run
from services.gateway.app import service

run(service)
