-- What the layers beside the weights say, so that nobody has to read files to resolve or list.
alter table models add column contents json not null default '{}';

create index models_by_weights on models (weights);

-- What a name pointed to before, newest first; as much of it as is kept.
create table model_versions (
    model_id bigint not null references models on delete cascade,
    digest text not null,
    manifest text not null,
    weights text not null,
    size bigint not null,
    facts json not null,
    contents json not null,
    layers text[] not null,
    created_at timestamptz not null,
    primary key (model_id, digest)
);
