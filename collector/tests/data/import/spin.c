#include <stdio.h>
#include <unistd.h>
#include <sys/stat.h>
#include <time.h>
static volatile unsigned long sink;
__attribute__((noinline)) static void inner(int n){for(int i=0;i<n;i++)sink+=i*i;}
__attribute__((noinline)) static void outer(void){inner(100000);}
__attribute__((noinline)) static void calls(void){struct stat s;for(int i=0;i<2000;i++)stat("/etc/hostname",&s);}
int main(void){time_t end=time(0)+2;while(time(0)<end){outer();calls();}return 0;}
