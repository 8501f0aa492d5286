"""What lmms-eval learns of our model through the entry point `lmms_eval.models`."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

MODEL_NAME = "videochat_online"
MANIFEST = ModelManifest(model_id=MODEL_NAME, simple_class_path="lmms_eval_ovbench.model.VideoChatOnlineModel")
