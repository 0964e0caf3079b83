# Put beside an mmpretrain config in `_base_`, to train its method on SNCLR's data and schedule.
custom_imports = dict(imports=['mmsnclr'], allow_failed_imports=False)
channels_last = True
same_checkpoints = dict(
    checkpoint=dict(type='AtomicCheckpointHook', interval=10, minutes=30, max_keep_ckpts=3)
)
same_env = dict(cudnn_benchmark=True)
# A fixed seed, so that a resumed run continues exactly.
same_seed = dict(seed=0)
view_seed = dict(type='ViewSeedHook')
same_data = dict(
    _delete_=True,
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet/',
        split='train',
        pipeline=[
            dict(
                type='AugmentedViews',
                views=[dict(blur_prob=1.0), dict(blur_prob=0.1, solarize_prob=0.2)],
            ),
            dict(type='PackInputs'),
        ],
    ),
)
same_optimizer = dict(
    _delete_=True,
    type='MixedPrecisionOptimWrapper',
    optimizer=dict(type='TIMMLars', lr=4.8, momentum=0.9, weight_decay=1.5e-6),
    # SwAV names its prototypes twice.
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, bypass_duplicate=True),
)
same_schedule = [
    dict(
        type='LinearLR', start_factor=1e-6 / 4.8, end=10, by_epoch=True, convert_to_iter_based=True
    ),
    dict(
        type='CosineAnnealingLR',
        begin=10,
        end=200,
        T_max=190,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
same_epochs = dict(type='EpochBasedTrainLoop', max_epochs=200)
same_batch = dict(base_batch_size=4096)
