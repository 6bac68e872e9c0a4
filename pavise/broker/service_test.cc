#include "pavise/broker/service.h"
