drop trigger audit on api_keys;
call audited('api_keys', 'id', 'digest');
drop index api_keys_of_organization;
alter table api_keys drop column version;
alter table api_keys drop column models;
alter table api_keys drop column scopes;
drop table invitations;
drop table roles;
drop policy own_organization on organizations;
alter table organizations no force row level security;
alter table organizations disable row level security;
delete from organizations where deleted_at is not null;
update organizations set name = id
where exists (select from organizations as other where other.name = organizations.name and other.id <> organizations.id);
alter table organizations add constraint organizations_name_key unique (name);
alter table organizations drop column deleted_at;
alter table organizations drop column store_prompts;
alter table organizations drop column description;
