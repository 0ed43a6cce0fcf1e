from libs.common.lifecycle import run
from services.auth.app import service

run(service)
