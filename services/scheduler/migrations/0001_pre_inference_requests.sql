-- The journal: one row a request, written once it has ended. Organization and key ids are auth's; no foreign keys across services.
create table inference_requests (
    request_id text primary key,
    organization_id text not null,
    user_id text,
    key_id text,
    model text not null,
    kind text not null,
    outcome text not null check (outcome in ('done', 'failed', 'cancelled')),
    worker_id text,
    attempts integer not null default 0,
    done_reason text not null default '',
    error_code text,
    prompt_tokens integer not null default 0,
    completion_tokens integer not null default 0,
    accepted_at timestamptz not null,
    granted_at timestamptz,
    first_token_at timestamptz,
    finished_at timestamptz not null
);

create index inference_requests_by_organization on inference_requests (organization_id, accepted_at desc);
