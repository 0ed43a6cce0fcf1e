alter table api_keys add constraint api_keys_limited unique (organization_id, id);

-- id: of the key, user or organization; or the pattern of the models it is about. Limits go with their key or member.
create table usage_limits (
    organization_id text not null references organizations on delete cascade,
    scope text not null check (scope in ('key', 'user', 'organization', 'model')),
    id text not null,
    requests_per_minute integer check (requests_per_minute > 0),
    tokens_per_minute bigint check (tokens_per_minute > 0),
    concurrent_streams integer check (concurrent_streams > 0),
    tokens_per_day bigint check (tokens_per_day > 0),
    tokens_per_month bigint check (tokens_per_month > 0),
    version integer not null default 1,
    user_id uuid generated always as (case when scope = 'user' then id::uuid end) stored,
    key_id uuid generated always as (case when scope = 'key' then id::uuid end) stored,
    primary key (organization_id, scope, id),
    check (scope <> 'organization' or id = organization_id),
    foreign key (organization_id, user_id) references memberships on delete cascade,
    foreign key (organization_id, key_id) references api_keys (organization_id, id) on delete cascade
);

-- What was billed: one row a request, exactly once. Ids are kept when what they name is gone; a person's can be taken out.
create table token_ledger (
    request_id text primary key,
    organization_id text not null,
    user_id text,
    key_id text,
    model text not null,
    kind text not null,
    outcome text not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    accepted_at timestamptz not null,
    finished_at timestamptz not null
);

create index token_ledger_by_time on token_ledger (accepted_at);
create index token_ledger_of_user on token_ledger (user_id) where user_id is not null;

-- The ledger's sums, kept in the same transaction. Empty ids: nobody's.
create table daily_usage (
    organization_id text not null,
    day date not null,
    user_id text not null,
    key_id text not null,
    model text not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    primary key (organization_id, day, user_id, key_id, model)
);

create index daily_usage_of_user on daily_usage (user_id);

call make_tenant_table('usage_limits');
call make_tenant_table('token_ledger');
call make_tenant_table('daily_usage');
call audited('usage_limits', 'id');
