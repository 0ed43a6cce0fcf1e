-- Responses of /v1/responses. What was asked and answered is sealed with AES-256-GCM under GATEWAY_SECRET_KEY; the frames
-- are those of answers that were streamed from the background. tries, losses, claims: as of the lines of batches.
create table responses (
    id text primary key,
    organization_id text not null,
    user_id text not null,
    key_id text,
    previous_id text,
    background boolean not null,
    streams boolean not null,
    status text not null,
    sealed_request bytea not null,
    sealed_response bytea,
    sealed_frames bytea,
    bytes bigint not null generated always as (
        octet_length(sealed_request) + coalesce(octet_length(sealed_response), 0)
        + coalesce(octet_length(sealed_frames), 0)
    ) stored,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    deadline_at timestamptz not null,
    tries integer not null default 0,
    losses integer not null default 0,
    waits_until timestamptz not null default now(),
    claimed_by text,
    claimed_until timestamptz not null default now()
);

create index responses_by_organization on responses (organization_id, created_at desc, id) include (bytes);
create index responses_by_user on responses (user_id);
create index responses_by_expiry on responses (expires_at);
create index responses_open on responses (created_at) where status in ('queued', 'in_progress');
call make_tenant_table('responses');

-- One that waits for a gateway wakes one up at once.
create trigger wake after insert or update of status on responses
    for each row when (new.status = 'queued') execute function wake_batches();
