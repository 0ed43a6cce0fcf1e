-- A user belongs to one or more organizations, with a role in each. users.organization_id is the one a login leads to if it
-- names none; users.role is not read any more.
alter table users alter column role set default 'user';
alter table users add column version integer not null default 1;
alter table organizations add column version integer not null default 1;

create table memberships (
    organization_id text not null references organizations on delete cascade,
    user_id uuid not null references users on delete cascade,
    role text not null,
    created_at timestamptz not null default now(),
    version integer not null default 1,
    primary key (organization_id, user_id)
);

create index memberships_of_user on memberships (user_id);

insert into memberships (organization_id, user_id, role) select organization_id, id, role from users;

alter table api_keys add column organization_id text references organizations on delete cascade;
update api_keys set organization_id = users.organization_id from users where users.id = user_id;
alter table api_keys alter column organization_id set not null;

-- One login. Its access tokens name it; ended, it stays until its last access token has expired.
create table user_sessions (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references users on delete cascade,
    organization_id text not null references organizations on delete cascade,
    ip text not null default '',
    user_agent text not null default '',
    created_at timestamptz not null default now(),
    last_used_at timestamptz not null default now(),
    expires_at timestamptz not null,
    ended_at timestamptz
);

create index user_sessions_of_user on user_sessions (user_id);

call make_tenant_table('memberships');
call make_tenant_table('api_keys');
call make_tenant_table('user_sessions');
call audited('users', 'id', 'password_hash');
call audited('memberships', 'user_id');
call audited('api_keys', 'id', 'digest');
call audited('organizations', 'id');
