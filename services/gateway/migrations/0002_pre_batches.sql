-- Files of /v1/files. What is in them is prompts and answers: sealed with AES-256-GCM under GATEWAY_SECRET_KEY.
create table files (
    id text primary key,
    organization_id text not null,
    user_id text not null,
    purpose text not null,
    filename text not null,
    bytes bigint not null default 0,
    complete boolean not null default false,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);

create index files_by_organization on files (organization_id, created_at desc, id);
create index files_by_user on files (user_id);
create index files_by_expiry on files (expires_at);
call make_tenant_table('files');
call audited('files', 'id', 'filename', '-bytes', '-complete');

create table file_chunks (
    id text primary key,
    organization_id text not null,
    file_id text not null references files on delete cascade,
    number integer not null,
    sealed bytea not null
);

create unique index file_chunks_in_order on file_chunks (file_id, number);
call make_tenant_table('file_chunks');

-- Batches of /v1/batches. claimed_until: a gateway reads its input or writes its output meanwhile.
create table batches (
    id text primary key,
    organization_id text not null,
    user_id text not null,
    key_id text,
    endpoint text not null,
    input_file_id text not null,
    output_file_id text,
    error_file_id text,
    completion_window text not null,
    metadata jsonb not null default '{}',
    status text not null default 'validating',
    errors jsonb not null default '[]',
    total integer not null default 0,
    completed integer not null default 0,
    failed integer not null default 0,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    in_progress_at timestamptz,
    finalizing_at timestamptz,
    completed_at timestamptz,
    failed_at timestamptz,
    expired_at timestamptz,
    cancelling_at timestamptz,
    cancelled_at timestamptz,
    waits_until timestamptz not null default now(),
    claimed_until timestamptz not null default now()
);

create index batches_by_organization on batches (organization_id, created_at desc, id);
create index batches_by_user on batches (user_id);
create index batches_open on batches (created_at) where status in ('validating', 'in_progress', 'finalizing', 'cancelling');
call make_tenant_table('batches');
call audited(
    'batches', 'id', 'metadata', '-errors', '-total', '-completed', '-failed', '-waits_until', '-claimed_until'
);

-- The lines of batches that have not ended. tries: how often its request was refused or lost, and is a new one since.
create table batch_lines (
    id text primary key,
    organization_id text not null,
    batch_id text not null references batches on delete cascade,
    number integer not null,
    sealed bytea not null,
    answer bytea,
    succeeded boolean,
    tries integer not null default 0,
    claimed_until timestamptz not null default now()
);

create unique index batch_lines_in_order on batch_lines (batch_id, number);
create index batch_lines_open on batch_lines (batch_id, number) where succeeded is null;
create index batch_lines_claimed on batch_lines (claimed_until) where succeeded is null;
call make_tenant_table('batch_lines');

-- A batch that waits for a gateway wakes one up at once.
create function wake_batches() returns trigger language plpgsql as $$
begin
    perform pg_notify('batches_' || tg_table_schema, '');
    return null;
end $$;

create trigger wake after insert or update of status on batches for each row execute function wake_batches();
