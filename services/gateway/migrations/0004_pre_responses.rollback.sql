drop table responses;
