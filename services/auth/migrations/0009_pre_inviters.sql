-- An invitation goes with who sent it, and with the right to send it. The migration sees the rows of every organization.
set local ollamamax.organization = '*';
delete from invitations
where invited_by is null or invited_by in (select id from users where disabled_at is not null);

alter table invitations
    drop constraint invitations_invited_by_fkey,
    alter column invited_by set not null,
    add constraint invitations_invited_by_fkey foreign key (invited_by) references users on delete cascade;

create index invitations_of_inviter on invitations (invited_by);
