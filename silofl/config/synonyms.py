"""What other libraries and papers call keys and sections, wherever in a file it stands."""

from __future__ import annotations

_SILOS = "-n of silofl launch, or one [[institution]] for each silo (how many there are is no key)"

KEYS: dict[str, str] = {
    **dict.fromkeys(("learning_rate", "eta", "client_lr", "local_lr", "lr_local"), "train.lr"),
    **dict.fromkeys(("server_lr", "server_learning_rate", "global_lr"), "strategy.lr"),
    **dict.fromkeys(("batch", "batchsize", "local_batch_size", "train_batch_size", "bs"), "train.batch_size"),
    "per_device_train_batch_size": "train.batch_size",
    **dict.fromkeys(("local_epochs", "num_epochs", "n_epochs", "num_train_epochs"), "train.epochs"),
    **dict.fromkeys(("local_steps", "max_steps"), "train.steps"),
    **dict.fromkeys(("optim", "optimiser", "local_optimizer"), "train.optimizer"),
    **dict.fromkeys(("wd", "l2", "l2_regularization"), "train.weight_decay"),
    **dict.fromkeys(("gradient_clip", "grad_clip", "gradient_clip_val", "clip_grad_norm"), "train.clip_norm"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule", "lr_decay", "warmup"), "train.schedule"),
    **dict.fromkeys(("early_stopping", "early_stop", "patience"), "run.stop_when"),
    **dict.fromkeys(("save_best", "load_best_model_at_end", "best_metric", "monitor"), "run.keep_best"),
    **dict.fromkeys(("pretrained", "init_weights", "initial_weights", "load_from"), "task.weights"),
    **dict.fromkeys(("gpu", "cuda", "accelerator"), "train.device"),
    **dict.fromkeys(("amp", "mixed_precision", "fp16", "bf16"), "train.precision"),
    **dict.fromkeys(
        ("num_rounds", "n_rounds", "communication_rounds", "comm_rounds", "global_rounds", "total_rounds"),
        "run.rounds",
    ),
    **dict.fromkeys(("random_seed", "random_state", "rng_seed"), "run.seed"),
    **dict.fromkeys(("output_dir", "run_dir", "save_dir", "log_dir", "outdir"), "run.dir"),
    **dict.fromkeys(("fraction_fit", "client_fraction", "sample_fraction", "fraction"), "run.participation"),
    **dict.fromkeys(("clients_per_round", "min_fit_clients"), "run.silos_per_round or clients.per_round"),
    **dict.fromkeys(("clients_per_silo", "virtual_clients", "clients_per_rank"), "clients.per_silo"),
    **dict.fromkeys(("num_clients", "n_clients", "clients", "num_silos", "n_silos", "silos"), _SILOS),
    **dict.fromkeys(("eval_every", "test_every", "evaluation_interval"), "run.evaluate_every"),
    **dict.fromkeys(("hidden_sizes", "hidden_layers", "hidden_dim", "hidden_size", "layers"), "task.hidden"),
    **dict.fromkeys(("num_classes", "n_classes"), "task.classes"),
    **dict.fromkeys(("class_names", "label_names"), "task.labels"),
    **dict.fromkeys(("problem_type", "task_type", "objective", "problem"), "task.head"),
    **dict.fromkeys(("class_weight", "pos_weight", "sample_weight"), "task.class_weights"),
    **dict.fromkeys(("architecture", "arch", "network", "net", "model_name"), "task.model"),
    **dict.fromkeys(("dataset", "data_path", "csv", "filename"), "data.path"),
    **dict.fromkeys(
        ("test_size", "validation_split", "val_fraction", "holdout", "split"), "data.test_fraction"
    ),
    **dict.fromkeys(("normalize", "normalise", "standardise", "scaler", "scaling"), "data.standardize"),
    **dict.fromkeys(("algorithm", "aggregator", "aggregation", "fl_algorithm"), "strategy.name"),
    **dict.fromkeys(("proximal_mu", "prox_mu"), "strategy.mu"),
    **dict.fromkeys(("secure_aggregation", "secagg", "smpc"), "secure.protocol"),
    **dict.fromkeys(("quantization_bits", "nbits", "num_bits"), "compress.bits"),
    **dict.fromkeys(("save_every", "checkpoint_every", "save_steps"), "checkpoint.every"),
}
"""By name the key that is meant; a text with a space is the whole answer."""

SECTIONS: dict[str, str] = {
    **dict.fromkeys(("training", "trainer", "client", "local", "optimizer", "optim"), "train"),
    **dict.fromkeys(("cross_device", "devices", "virtual_clients"), "clients"),
    **dict.fromkeys(("dp", "differential_privacy", "opacus"), "privacy"),
    **dict.fromkeys(("model", "problem"), "task"),
    **dict.fromkeys(("dataset", "datasets"), "data"),
    **dict.fromkeys(("security", "secagg", "secure_aggregation", "encryption"), "secure"),
    **dict.fromkeys(("compression", "compressor", "quantization"), "compress"),
    **dict.fromkeys(("pruning", "sparsity"), "prune"),
    **dict.fromkeys(("checkpoints", "checkpointing"), "checkpoint"),
    **dict.fromkeys(("server", "aggregator", "aggregation", "algorithm"), "strategy"),
    **dict.fromkeys(("personalization", "personalisation"), "personal"),
    **dict.fromkeys(("federation", "general", "global", "experiment"), "run"),
    **dict.fromkeys(("failures", "faults", "fault_tolerance"), "failure"),
    **dict.fromkeys(("institutions", "site", "sites", "silo", "silos", "hospital"), "institution"),
}
"""By name the section that is meant."""
