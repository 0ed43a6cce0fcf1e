-- Which models exist. The manifest is kept byte for byte: its sha256 is the model's digest.
create table models (
    id bigint generated always as identity primary key,
    host text not null,
    namespace text not null,
    model text not null,
    tag text not null,
    digest text not null,
    manifest text not null,
    weights text not null,
    size bigint not null,
    facts json not null,
    modified_at timestamptz not null default now()
);

-- Names keep the spelling they were made with and are found in any.
create unique index models_by_name on models (lower(host), lower(namespace), lower(model), lower(tag));

create table blobs (
    digest text primary key check (digest ~ '^sha256:[0-9a-f]{64}$'),
    size bigint not null,
    created_at timestamptz not null default now()
);

create table model_layers (
    model_id bigint not null references models on delete cascade,
    digest text not null references blobs,
    media_type text not null,
    primary key (model_id, digest, media_type)
);

create index model_layers_by_digest on model_layers (digest);
