drop table signing_keys;
drop table api_keys;
drop table users;
drop table organizations;
