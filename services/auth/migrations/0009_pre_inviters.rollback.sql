drop index invitations_of_inviter;
alter table invitations
    drop constraint invitations_invited_by_fkey,
    alter column invited_by drop not null,
    add constraint invitations_invited_by_fkey foreign key (invited_by) references users on delete set null;
