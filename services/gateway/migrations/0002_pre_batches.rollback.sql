drop table batch_lines;
drop table batches;
drop function wake_batches();
drop table file_chunks;
drop table files;
