-- Workers that serve blobs to others. Tokens for a worker are signed with its key, which is new each time it starts.
create table peers (
    worker_id text primary key,
    node text not null,
    url text not null,
    key text not null,
    heard_at timestamptz not null default now()
);

create index peers_by_node on peers (node);

-- What is on each node's disk, as its workers report it. A blob without verified_at is not whole.
create table cached_blobs (
    node text not null,
    digest text not null,
    size bigint not null,
    completed bigint not null,
    verified_at timestamptz,
    damaged_at timestamptz,
    error text not null,
    health real not null default 1 check (health between 0 and 1),
    primary key (node, digest)
);

create index cached_blobs_by_digest on cached_blobs (digest);

-- Models on nodes: what follows from cached_blobs, what was asked for (wanted), and what was there once.
create table model_replicas (
    model_digest text not null,
    node text not null,
    state text not null check (state in ('syncing', 'ready', 'failed', 'deleted')),
    wanted boolean not null default false,
    size bigint not null,
    completed bigint not null,
    health real not null default 1,
    verified_at timestamptz,
    error text not null default '',
    changed_at timestamptz not null default now(),
    primary key (model_digest, node)
);

create index model_replicas_by_node on model_replicas (node);
