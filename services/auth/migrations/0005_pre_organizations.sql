-- A deleted organization stays, so that its id is never given again: other services may still have rows that carry it.
-- Names need not differ: that one is taken would tell an admin who else is here.
alter table organizations add column description text not null default '';
alter table organizations add column store_prompts boolean not null default false;
alter table organizations add column deleted_at timestamptz;
alter table organizations drop constraint organizations_name_key;
alter table organizations enable row level security;
alter table organizations force row level security;
create policy own_organization on organizations using (sees(id)) with check (sees(id));

-- Roles beside the four that are always there. No models: all of them.
create table roles (
    organization_id text not null references organizations on delete cascade,
    name text not null,
    description text not null default '',
    permissions text[] not null,
    models text[] not null default '{}',
    created_at timestamptz not null default now(),
    version integer not null default 1,
    primary key (organization_id, name)
);

-- Open ones only: accepting or withdrawing one deletes it.
create table invitations (
    id uuid primary key default gen_random_uuid(),
    organization_id text not null references organizations on delete cascade,
    email text not null check (email = lower(email)),
    role text not null,
    digest text not null unique,
    invited_by uuid references users on delete set null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    unique (organization_id, email)
);

-- No scopes: all that the owner may. No models: all that the owner may know of.
alter table api_keys add column scopes text[];
alter table api_keys add column models text[] not null default '{}';
alter table api_keys add column version integer not null default 1;
create index api_keys_of_organization on api_keys (organization_id, created_at);

call make_tenant_table('roles');
call make_tenant_table('invitations');
call audited('roles', 'name');
call audited('invitations', 'id', 'digest', 'email');
drop trigger audit on api_keys;
call audited('api_keys', 'id', 'digest', '-last_used_at');
