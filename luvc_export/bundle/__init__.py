"""A bundle on disk: the schema of ``luvc.json``, reading it with every check, writing it whole or not at all."""

from luvc_export.bundle.folder import Bundle as Bundle
from luvc_export.bundle.folder import load as load
