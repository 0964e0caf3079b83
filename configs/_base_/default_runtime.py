_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,  # images of a batch have one size
    # Seconds after which a process group that waits for a rank ends the run; before, at two thirds
    # of it, the heartbeat names the rank.
    dist_cfg=dict(timeout=900),
)
default_hooks = dict(
    logger=dict(interval=50),
    # Also at the end of an epoch when half an hour of work would be lost.
    checkpoint=dict(type='AtomicCheckpointHook', interval=10, minutes=30, max_keep_ckpts=3),
    health=dict(type='HealthHook'),  # logs and judges features and neighbours
    non_finite=dict(type='NonFiniteHook'),
    rank_drift=dict(type='RankDriftHook'),
    unreadable_images=dict(type='UnreadableImagesHook'),
    heartbeat=dict(type='HeartbeatHook'),
)
log_processor = dict(type='EssentialLogProcessor')
# A fixed seed, so that a resumed run continues exactly.
randomness = dict(seed=0)
# For Weights & Biases: --cfg-options visualizer.vis_backends.1.type=WandbVisBackend
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
