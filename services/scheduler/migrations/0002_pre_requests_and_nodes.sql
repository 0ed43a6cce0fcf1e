-- Requests belong to an organization; the journal itself writes for all of them.
call make_tenant_table('inference_requests');

create index inference_requests_by_user on inference_requests (user_id, accepted_at desc);
create index inference_requests_by_end on inference_requests (finished_at);

-- What was asked and answered, sealed with AES-256-GCM under SCHEDULER_SECRET_KEY, for organizations that want it kept.
create table stored_exchanges (
    request_id text primary key,
    organization_id text not null,
    user_id text,
    sealed bytea not null,
    stored_at timestamptz not null default now()
);

create index stored_exchanges_by_user on stored_exchanges (user_id);
create index stored_exchanges_by_age on stored_exchanges (stored_at);
call make_tenant_table('stored_exchanges');

-- Machines, of the whole installation. What people say of them is audited; what changes by itself is in node_reports.
create table nodes (
    id text primary key,
    draining boolean not null default false,
    region text not null default '',
    zone text not null default '',
    labels jsonb not null default '{}',
    first_heard_at timestamptz not null default now(),
    version integer not null default 1
);

call audited('nodes', 'id');

-- What a node's workers said last, written rarely; by it a node that is silent is still known.
create table node_reports (
    node text primary key references nodes on delete cascade,
    gone boolean not null,
    engines text[] not null,
    cpus integer not null,
    memory_bytes bigint not null,
    heard_at timestamptz not null
);
